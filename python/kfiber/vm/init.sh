#!/bin/busybox sh
# SPDX-License-Identifier: MIT
# PID 1 of the guest until it has its root: the host's, read-only, under a file system in memory.
# image.py packs it, and names the commands of busybox that there are.

export PATH=/bin
fail() {
	echo "kfiber: guest: $*"
	poweroff -f
}

mount -t devtmpfs devtmpfs /dev && mount -t proc proc /proc && mount -t sysfs sysfs /sys ||
	fail "cannot mount /dev, /proc and /sys"
# What is said here lands in the kernel log's file on the host.
exec </dev/null >/dev/console 2>&1
# guest.py looks for it.
echo "kfiber: init runs"

for module in /modules/*; do
	# A kernel may have all that is needed built in.
	[ -e "$module" ] || continue
	insmod "$module" || fail "cannot load $module"
done

# One attach for all users: who may read what is decided here, by the files' own modes.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any host /lower ||
	fail "cannot mount the host's root"
mount -t tmpfs tmpfs /writable && mkdir /writable/upper /writable/work &&
	mount -t overlay -o lowerdir=/lower,upperdir=/writable/upper,workdir=/writable/work overlay /root ||
	fail "cannot lay a writable layer over the host's root"

# /tmp is the guest's own, but for what the command was told about.
mkdir /tmp
mount -t tmpfs -o mode=1777 tmpfs /tmp
while IFS= read -r name; do
	if [ -d "/root/tmp/$name" ]; then
		mkdir "/tmp/$name"
	else
		: >"/tmp/$name"
	fi
	mount --bind "/root/tmp/$name" "/tmp/$name" || fail "cannot show /tmp/$name"
done </kfiber/visible

mount --move /tmp /root/tmp
mount -t tmpfs -o mode=755 tmpfs /root/run
for name in dev proc sys; do
	mount --move /$name /root/$name || fail "cannot move /$name"
done
mkdir -p /root/run/lock /root/run/user
mv /kfiber /root/run/kfiber
cp -a /bin /root/run/kfiber/bin

exec switch_root /root /run/kfiber/bin/busybox sh /run/kfiber/session
fail "cannot enter the host's root"
