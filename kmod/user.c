// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a user can make the module allocate: at most max_user_kib over all of his
 * processes, whatever memory cgroups they are in.
 *
 * A user is a uid in a user namespace. What is charged to him is also charged to
 * the owner of that namespace, and so on outwards, as with ucounts(7): a user
 * who makes namespaces gets no more for that.
 *
 * A process has an account, whose parent is its user: what is charged to it is
 * charged to him. It has no limit of its own.
 *
 * The charge is the reference: a user, and an account, exists as long as bytes
 * are charged. All of it is atomic, so that whoever frees memory can uncharge it
 * in any context.
 *
 * Memory that only waits for its RCU readers stays charged but does not count: a
 * stranger can delay these (by reading /proc at a low priority), and must not
 * make a request fail by that. A user who has more than his limit waiting is
 * slowed down instead. What processes leave behind at their end waits, too, until
 * it is freed: of that, no more than one limit does not count, since it comes at
 * once.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/err.h>
#include <linux/hashtable.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>

#include "user.h"

/**
 * struct fiber_user - who pays
 * @node: in the table of users; users_lock
 * @user_ns, @uid: who it is; a reference. @user_ns is NULL for a process's account
 * @parent: the owner of @user_ns, outside of it; NULL in the initial namespace. The
 *	    user of an account
 * @bytes: charged, at least the bytes of those whose parent this is
 * @waiting: those of @bytes that wait for RCU readers
 * @ended: of an account: those that its process's end has added to its parents'
 *	   @waiting, and that are not freed yet
 */
struct fiber_user {
	struct hlist_node node;
	struct user_namespace *user_ns;
	kuid_t uid;
	struct fiber_user *parent;
	atomic_long_t bytes;
	atomic_long_t waiting;
	atomic_long_t ended;
};

static DEFINE_HASHTABLE(users, 8);
static DEFINE_RAW_SPINLOCK(users_lock);

static unsigned long user_hash(struct user_namespace *user_ns, kuid_t uid)
{
	return (unsigned long)user_ns + __kuid_val(uid);
}

/* With users_lock held. One whose last byte is being uncharged is no more. */
static struct fiber_user *user_find(struct user_namespace *user_ns, kuid_t uid, size_t bytes)
{
	struct fiber_user *user;

	lockdep_assert_held(&users_lock);

	hash_for_each_possible(users, user, node, user_hash(user_ns, uid))
		if (user->user_ns == user_ns && uid_eq(user->uid, uid) &&
		    atomic_long_add_unless(&user->bytes, bytes, 0))
			return user;
	return NULL;
}

static void user_stop_waiting(struct fiber_user *user, long bytes)
{
	for (; user; user = user->parent)
		atomic_long_sub(bytes, &user->waiting);
}

/* Gives back what was charged, and the users to whom nothing is charged any more. */
static void user_uncharge(struct fiber_user *user, size_t bytes)
{
	while (user) {
		struct fiber_user *parent = user->parent;

		if (atomic_long_sub_and_test(bytes, &user->bytes)) {
			unsigned long flags;

			if (user->user_ns) {
				raw_spin_lock_irqsave(&users_lock, flags);
				hash_del(&user->node);
				raw_spin_unlock_irqrestore(&users_lock, flags);
				put_user_ns(user->user_ns);
			}
			kfree(user);
		}
		user = parent;
	}
}

/*
 * Gives back what was charged. If the process has ended, its user stops waiting for as
 * much, or he could have it twice until all is freed. In any context.
 */
void fiber_user_uncharge(struct fiber_user *user, size_t bytes)
{
	long ended = atomic_long_read(&user->ended), freed;

	do
		freed = min_t(long, ended, bytes);
	while (freed && !atomic_long_try_cmpxchg(&user->ended, &ended, ended - freed));
	/* Before the bytes, which keep the user. */
	if (freed)
		user_stop_waiting(user->parent, freed);
	user_uncharge(user, bytes);
}

/* Memory that was charged waits for its RCU readers from now on. In any context. */
void fiber_user_defer(struct fiber_user *user, size_t bytes)
{
	for (; user; user = user->parent)
		atomic_long_add(bytes, &user->waiting);
}

/* Gives back what fiber_user_defer() was told of. In any context. */
void fiber_user_uncharge_deferred(struct fiber_user *user, size_t bytes)
{
	user_stop_waiting(user, bytes);
	user_uncharge(user, bytes);
}

/* Whether the caller may exceed the limit. */
static bool user_unlimited(void)
{
	return ns_capable_noaudit(&init_user_ns, CAP_SYS_RESOURCE);
}

static long user_limit(void)
{
	return (long)READ_ONCE(fiber_max_user_kib) * 1024;
}

/*
 * Whether the limit is none of his, who owns the namespace of whom it is charged to if
 * @inner. Namespaces that root made are machines of their own, as those of containers:
 * they do not share one limit.
 */
static bool user_exempt(const struct fiber_user *user, bool inner)
{
	return inner && !user->parent && uid_eq(user->uid, GLOBAL_ROOT_UID);
}

/* Whether that is more than the user may have. */
static bool user_over(const struct fiber_user *user, long bytes, bool inner)
{
	return !user_exempt(user, inner) &&
	       bytes - atomic_long_read(&user->waiting) > user_limit();
}

/* How much of his waits, or of an owner of his namespace if that is more. */
static long user_waiting(const struct fiber_user *user)
{
	const struct fiber_user *one;
	long most = 0;

	for (one = user; one; one = one->parent)
		if (!user_exempt(one, one != user))
			most = max(most, atomic_long_read(&one->waiting));
	return most;
}

/*
 * The process of that account has ended: what is charged to it waits for RCU
 * readers from now on, as far as the user has not a limit of that already. In any
 * context.
 */
void fiber_user_end(struct fiber_user *account)
{
	unsigned long flags;
	long bytes, room;

	/* Of several processes that end, each finds the room that the others have left. */
	raw_spin_lock_irqsave(&users_lock, flags);
	bytes = atomic_long_read(&account->bytes) - atomic_long_read(&account->waiting);
	room = user_limit() - user_waiting(account->parent);
	bytes = clamp(room, 0L, bytes);
	fiber_user_defer(account->parent, bytes);
	atomic_long_set(&account->ended, bytes);
	raw_spin_unlock_irqrestore(&users_lock, flags);
}

/* All has been freed but what still keeps the account, which waits no longer. */
void fiber_user_ended(struct fiber_user *account)
{
	user_stop_waiting(account->parent, atomic_long_xchg(&account->ended, 0));
}

/*
 * Charges an account, to which something is charged already, which keeps it. May
 * sleep. -EDQUOT: that is more than the user, or an owner of his namespace, may
 * have. -EINTR: a fatal signal came while he was slowed down.
 */
int fiber_user_charge(struct fiber_user *account, size_t bytes)
{
	struct fiber_user *user = account->parent, *one, *undo;

	if (unlikely(user_waiting(user) > user_limit()) && !user_unlimited()) {
		schedule_timeout_killable(1);
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	atomic_long_add(bytes, &account->bytes);
	for (one = user; one; one = one->parent) {
		long now = atomic_long_add_return(bytes, &one->bytes);

		if (unlikely(user_over(one, now, one != user)) && !user_unlimited())
			goto undo;
	}
	return 0;

undo:
	for (undo = account; undo != one->parent; undo = undo->parent)
		atomic_long_sub(bytes, &undo->bytes);
	return -EDQUOT;
}

/* The user of that uid in that namespace, whose @parent has been charged; or an error. */
static struct fiber_user *user_get(struct user_namespace *user_ns, kuid_t uid,
				   struct fiber_user *parent, size_t bytes)
{
	struct fiber_user *user, *made = kzalloc(sizeof(*made), GFP_KERNEL_ACCOUNT);

	if (!made)
		return ERR_PTR(-ENOMEM);
	raw_spin_lock_irq(&users_lock);
	user = user_find(user_ns, uid, bytes);
	if (!user) {
		swap(user, made);
		user->user_ns = get_user_ns(user_ns);
		user->uid = uid;
		user->parent = parent;
		atomic_long_set(&user->bytes, bytes);
		hash_add(users, &user->node, user_hash(user_ns, uid));
	}
	raw_spin_unlock_irq(&users_lock);
	kfree(made);
	return user;
}

/* Bytes that an account takes; part of what is charged to it. */
size_t fiber_user_size(void)
{
	return sizeof(struct fiber_user);
}

/*
 * Opens an account of the calling user, who need have nothing charged, and charges
 * it. Returns it, or -EDQUOT or -ENOMEM. The user whose real uid the caller has
 * pays, as with RLIMIT_NPROC.
 */
struct fiber_user *fiber_user_open(size_t bytes)
{
	const struct cred *cred = current_cred();
	struct user_namespace *chain[34];	/* namespaces nest at most 33 deep */
	struct fiber_user *user = NULL, *account;
	bool over = false;
	int depth = 0;

	for (chain[0] = cred->user_ns; chain[depth]->parent; depth++) {
		if (WARN_ON_ONCE(depth + 1 == ARRAY_SIZE(chain)))
			return ERR_PTR(-EDQUOT);
		chain[depth + 1] = chain[depth]->parent;
	}
	/* From the outermost namespace inwards: the parents come first. */
	for (; depth >= 0; depth--) {
		kuid_t uid = depth ? chain[depth - 1]->owner : cred->uid;
		struct fiber_user *inner = user_get(chain[depth], uid, user, bytes);

		if (IS_ERR(inner)) {
			user_uncharge(user, bytes);
			return inner;
		}
		user = inner;
		over |= user_over(user, atomic_long_read(&user->bytes), depth);
	}
	if (over && !user_unlimited()) {
		user_uncharge(user, bytes);
		return ERR_PTR(-EDQUOT);
	}
	account = kzalloc(sizeof(*account), GFP_KERNEL_ACCOUNT);
	if (!account) {
		user_uncharge(user, bytes);
		return ERR_PTR(-ENOMEM);
	}
	account->parent = user;
	atomic_long_set(&account->bytes, bytes);
	return account;
}
