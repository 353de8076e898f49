# SPDX-License-Identifier: MIT
"""Measures what fibers cost, beside others; writes the report. `make bench`, `make report`.

    __main__.py     the command: `bench`, and `report`
    row.py          a figure, and tables of them
    peers.py        the programs that are compared, and which of them are here
    native.py       cases measured on this machine
    greenlets.py    fibers in Python beside greenlets; coroutine.py is the program that it runs
    guest.py        cases measured in the virtual machine, for the gate
    variants.py     what the report compares: its two versions, our engines, swapcontext
    reference.py    the reference report's own figures
    collect.py      takes the report's measurements where it runs, machine or virtual machine
    report.py       has them taken, and writes the data
    data.py         the data's file, and statistics
    charts.py       its pictures
    page.py         its page, from the data alone

Data flows from the programs in C over collect.py to data.py; page.py and charts.py only read.
"""
