/* SPDX-License-Identifier: MIT */
/* fiber.hpp: fibers that are owned, whose functions are any and throw. */
#include <fiber.hpp>

#include <stdexcept>
#include <vector>

#include "check.h"

using libfiber::fiber;

TEST(a_generator)
{
	libfiber::conversion here;
	std::vector<int> seen;
	int value = 0;
	fiber numbers([&value] {
		for (value = 1; value <= 3; value++)
			fiber::yield();
	}, "numbers");

	CHECK(!std::string(stat_of(numbers.id()).name).compare("numbers"));
	for (numbers.resume(); !numbers.ended(); numbers.resume())
		seen.push_back(value);
	CHECK(seen == std::vector<int>({ 1, 2, 3 }));
	CHECK(fiber_switch(numbers.id()) == ESRCH);
}

TEST(an_exception_goes_to_the_resumer)
{
	libfiber::conversion here;
	fiber outer([] {
		fiber inner([] {
			fiber::yield();
			throw std::runtime_error("inner");
		});

		inner.resume();
		try {
			inner.resume();
		} catch (const std::runtime_error &error) {
			CHECK(inner.ended());
			throw std::logic_error(std::string("outer after ") + error.what());
		}
	});
	std::string what;

	try {
		outer.resume();
	} catch (const std::logic_error &error) {
		what = error.what();
	}
	CHECK(what == "outer after inner" && outer.ended());
}

struct counted {
	int &count;
	~counted() { count++; }
};

TEST(what_is_suspended_is_unwound)
{
	libfiber::conversion here;
	int destroyed = 0;

	{
		fiber suspended([&destroyed] {
			counted one{ destroyed };
			fiber nested([&destroyed] {
				counted two{ destroyed };
				fiber::yield();
			});

			nested.resume();
			fiber::yield();
		});
		fiber moved(std::move(suspended)), never([] { std::terminate(); });

		CHECK(suspended.ended());
		moved.resume();
		CHECK(!moved.ended() && destroyed == 0);
	}
	CHECK(destroyed == 2);
	CHECK(fiber_count() == 1);
}

TEST(errors_are_system_errors)
{
	fiber made([] {});
	int code = 0;

	try {
		made.resume();
	} catch (const std::system_error &error) {
		code = error.code().value();
	}
	CHECK(code == EPERM);
}
