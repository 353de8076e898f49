# SPDX-License-Identifier: MIT
"""A command run inside a virtual machine that has the kernel module loaded.

Layout, each importing only from those above it:

    errors      VmError and the exit statuses
    progress    what a person who waits gets to see
    apt         Debian packages from the machine's own mirrors
    distribution  the series of kernels, and the suites that have them: one table
    headers     packages of kernel headers, made to work where they are unpacked
    kernels     kernels to boot, from those packages, in the user's cache
    debug       the kernel that checks itself, built from Debian's source
    image       the initial file system that a guest starts from
    klog        what a kernel log says went wrong
    clock       the speed of the time stamp counter
    relay       standard streams between here and the guest
    qemu        Machine, and QEMU's command line for it
    guest       a running machine: its ports and its kernel log
    run         run(): a command from start to end
    init.sh, session.sh   the guest's PID 1, before and after it has its root
"""
