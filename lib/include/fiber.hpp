/* SPDX-License-Identifier: MIT */
/*
 * fiber.h in C++, header only, C++14 and newer. Errors are thrown as std::system_error whose code
 * is the error number. Rules and thread-safety are fiber.h's.
 */
#ifndef FIBER_HPP
#define FIBER_HPP

#include <fiber.h>

#include <cerrno>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

namespace libfiber {

inline void check(int err, const char *what)
{
	if (err)
		throw std::system_error(err, std::generic_category(), what);
}

/* The calling thread is a fiber as long as this lives, which must end on the same thread. */
class conversion {
public:
	explicit conversion(unsigned int flags = 0)
	{
		check(fiber_convert(flags, &id_), "fiber_convert");
	}
	~conversion() { fiber_revert(); }
	conversion(const conversion &) = delete;
	conversion &operator=(const conversion &) = delete;

	fiber_id_t id() const { return id_; }

private:
	fiber_id_t id_;
};

/*
 * Owns a created fiber, whose function may be anything that can be called and may return or
 * throw. An exception that leaves the function is thrown by the resume() that ran the
 * fiber last. If the fiber has not ended, the destructor unwinds its stack (fiber_unwind()), or
 * deletes it without that on a thread that is not a fiber. If another thread runs the fiber then,
 * the program is terminated, as with a std::thread that was not joined.
 */
class fiber {
public:
	explicit fiber(std::function<void()> function, const std::string &name = std::string(),
		       std::size_t stack_size = 0)
		: state_(new state{ std::move(function), nullptr, false })
	{
		struct fiber_attr attr = FIBER_ATTR_INIT;

		attr.flags = FIBER_RETURNS;
		attr.name = name.c_str();
		attr.stack_size = stack_size;
		check(fiber_create(&id_, run, state_.get(), &attr), "fiber_create");
	}
	fiber(fiber &&other) noexcept : state_(std::move(other.state_)), id_(other.id_) {}
	fiber &operator=(fiber &&other) noexcept
	{
		end();
		state_ = std::move(other.state_);
		id_ = other.id_;
		return *this;
	}
	~fiber() { end(); }

	fiber_id_t id() const { return id_; }

	/* Whether the function has ended; true, too, after a move from this object. */
	bool ended() const { return !state_ || state_->ended; }

	/* Runs the fiber until it yields, switches here or ends. */
	void resume()
	{
		state *mine = state_.get();

		check(fiber_switch(id_), "fiber_switch");
		if (mine->thrown)
			std::rethrow_exception(std::exchange(mine->thrown, nullptr));
	}

	/* From the calling fiber back to the one that resumed it. */
	static void yield() { check(fiber_yield(nullptr), "fiber_yield"); }

private:
	struct state {
		std::function<void()> function;
		std::exception_ptr thrown;
		bool ended;
	};

	static void run(void *data)
	{
		state *mine = static_cast<state *>(data);
		struct at_end {
			state *mine;
			~at_end() { mine->ended = true; }
		} at_end{ mine };

		try {
			mine->function();
		} catch (...) {
			mine->thrown = std::current_exception();
			/* A forced unwind is no C++ exception, and must not stop here. */
			if (!mine->thrown)
				throw;
		}
	}

	void end() noexcept
	{
		int err;

		if (ended())
			return;
		err = fiber_unwind(id_);
		/* A destructor has switched away. */
		while (err == EAGAIN && !state_->ended)
			err = fiber_switch(id_) ? EBUSY : EAGAIN;
		if (err == EPERM)
			err = fiber_delete(id_);
		if (err && err != ESRCH && !state_->ended)
			std::terminate();
	}

	std::unique_ptr<state> state_;
	fiber_id_t id_ = 0;
};

}

#endif /* FIBER_HPP */
