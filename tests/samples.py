# SPDX-License-Identifier: MIT
"""Text that tests of several files use."""

FIBER_FILE = """\
Running: no
Initial entry point: 0x0000560cff3d06a0
Parent thread id: 6526
Number of activations: 7
Number of failed activations: 2
Total execution time: 546 ms
Name: cell 17
State: suspended
Thread id: 0
CPU time ns: 546123456
Longest run ns: 123
Last switch ns ago: 456
Saved instruction pointer: 0x0000000000401ad8
Saved stack pointer: 0x00007fe64f19afe8
Stack start: 0x00007fe64f18b000
Stack size: 65536
Engine: kernel
"""
