# SPDX-License-Identifier: MIT
# PID 1 of the guest once it has its root: prepares it, runs the command, tells the host how it went.
#
#                        virtio-serial ports
#   host's stdin  ----> 1 ----> cat ----> fifo ----> command
#   host's stdout <---- 2 <---- cat <---- fifo <-----/  /
#   host's stderr <---- 3 <---- cat <---- fifo <-------/
#   a channel for the command's own use: 4
#   host <------------> 5: "go"; then back: "ready", "status N", "done BYTES BYTES BYTES"
#
# The command gets fifos: a port can be opened once only, so that it would fail to open /dev/stdout.

here=/run/kfiber
export PATH=$here/bin
port=/dev/vport0p

fail() {
	echo "kfiber: guest: $*" >/dev/console
	poweroff -f
}

problem() {
	echo "kfiber: problem: $*" >/dev/kmsg
}

# From here on the kernel log goes to the host as it is; while booting, its harmless part costs time.
dmesg -n 8

mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,gid=5,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ ! -d /sys/kernel/security ] || mount -t securityfs securityfs /sys/kernel/security
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
hostname kfiber
ifconfig lo 127.0.0.1 up
# A dump would go to the command's directory.
ulimit -c 0

# Names of the kernel that runs, for whoever builds or loads modules in here.
. $here/kernel
mkdir -p "/lib/modules/$release"
# A host that runs the same release has its own.
[ -e "/lib/modules/$release/kernel" ] || ln -sf "$modules/kernel" "/lib/modules/$release/kernel"
[ -e "/lib/modules/$release/build" ] || ln -sf "$build" "/lib/modules/$release/build"

# The host's word also shows that it is connected to the ports before this one: until then they
# would read as ended.
until [ -c ${port}5 ]; do
	sleep 0.02
done
exec 6<>${port}5 || fail "cannot open the port to the host"
until read -r word <&6; do
	sleep 0.02
done

# On one processor: QEMU 7.2's emulation of several can run a stale translation of kernel code that
# is being patched, as loading and unloading do, and hang.
alone() {
	for online in /sys/devices/system/cpu/cpu[1-9]*/online; do
		[ ! -e $online ] || echo 0 >$online
	done
	"$@"
	alone_status=$?
	for online in /sys/devices/system/cpu/cpu[1-9]*/online; do
		[ ! -e $online ] || echo 1 >$online
	done
	return $alone_status
}

if [ -e $here/fiber.ko ]; then
	alone insmod $here/fiber.ko $(cat $here/parameters) 2>$here/why ||
		fail "cannot load the module: $(cat $here/why)"
	# The kernel gives the device to root only. In here every user may have it; a command that
	# loads the module again does this again.
	chmod 666 /dev/fiber
fi

mkfifo $here/in $here/out $here/err
cat <${port}1 >$here/in 6>&- &
in=$!
cat <$here/out >${port}2 6>&- &
out=$!
cat <$here/err >${port}3 6>&- &
err=$!

echo ready >&6
# A shell says "Killed" where it waits: not among what the command says.
{
	(exec sh $here/command <$here/in >$here/out 2>$here/err 6>&-)
	status=$?
} 2>/dev/null
echo status $status >&6

# What the command left behind ends with it, or the streams would not.
left=.
while [ -n "$left" ]; do
	left=
	for process in /proc/[0-9]*; do
		case " 1 $in $out $err " in
		*" ${process#/proc/} "*) continue ;;
		esac
		# A thread of the kernel and a dead process have no program.
		if [ -e $process/exe ]; then
			kill -9 ${process#/proc/} && left=.
			sleep 0.02
		fi
	done 2>/dev/null
done
kill $in 2>/dev/null
wait $out $err

# With its users gone the module has to go as well, but may take a moment for what it frees late.
if [ -e $here/fiber.ko ] && grep -q "^fiber " /proc/modules; then
	for try in 1 2 3 4 5 6 7 8 9 10; do
		alone rmmod fiber 2>$here/why && break
		sleep 0.2
	done
	[ $try -lt 10 ] || problem "the module does not unload: $(cat $here/why)"
fi

# The command may have unmounted what it liked.
mkdir -p $here/debug
mount -t debugfs debugfs $here/debug

# The debug kernel tells what nobody refers to any more: of objects older than five seconds, and
# unchanged since the scan before. What is said here fails the run. Left out is what the kernel
# itself loses when it has no memory to show a cache in /sys: a name, in sysfs_slab_add().
leaks=$here/debug/kmemleak
if [ -e $leaks ] && sleep 5 && echo scan >$leaks && echo scan >$leaks; then
	sed -n -e "/^unreferenced/b report" -e H -e "\$b report" -e d \
		-e ":report" -e x -e "/sysfs_slab_add/!p" $leaks >/dev/console
fi

# A message without its end shows up with the next one only.
echo "kfiber: the command has ended with status $status" >/dev/kmsg

sent() {
	sed -n "s/^bytes_sent: //p" $here/debug/virtio-ports/vport0p$1 || echo 0
}
echo "done $(sent 2) $(sent 3) $(sent 4)" >&6

# The host ends the machine once it has all of that, which can take as long as its reader likes.
read -r word <&6
poweroff -f
