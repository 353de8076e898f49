// SPDX-License-Identifier: MIT
// Boost's fcontext, on stacks as all others have; with BOOST_PROTECTED on Boost's with guard pages.
#include <boost/context/detail/fcontext.hpp>
#ifdef BOOST_PROTECTED
#include <boost/context/protected_fixedsize_stack.hpp>
#endif

#include "stacks.h"

struct peer_fiber {
	boost::context::detail::fcontext_t context;
#ifdef BOOST_PROTECTED
	boost::context::stack_context stack;
#else
	char *stack;
#endif
};

/* Only who arrives learns where the one left goes on, and notes it there. */
static void boost_arrived(boost::context::detail::transfer_t from)
{
	static_cast<peer_fiber *>(from.data)->context = from.fctx;
}

static void boost_body(boost::context::detail::transfer_t from)
{
	boost_arrived(from);
	peer_body();
}

static void peer_begin(struct peer_fiber *self)
{
	(void)self;
}

static int peer_create(struct peer_fiber *fiber)
{
#ifdef BOOST_PROTECTED
	boost::context::protected_fixedsize_stack allocator(PEER_STACK);

	fiber->stack = allocator.allocate();
	fiber->context = boost::context::detail::make_fcontext(fiber->stack.sp, fiber->stack.size,
							       boost_body);
#else
	fiber->stack = stack_take();
	if (!fiber->stack)
		return -1;
	fiber->context = boost::context::detail::make_fcontext(fiber->stack + PEER_STACK, PEER_STACK,
							       boost_body);
#endif
	return 0;
}

static inline void peer_delete(struct peer_fiber *fiber)
{
#ifdef BOOST_PROTECTED
	boost::context::protected_fixedsize_stack allocator(PEER_STACK);

	allocator.deallocate(fiber->stack);
#else
	stack_give(fiber->stack);
#endif
}

static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to)
{
	boost_arrived(boost::context::detail::jump_fcontext(to->context, from));
}

#include "measure.h"
