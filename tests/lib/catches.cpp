/* SPDX-License-Identifier: MIT */
/* Not a test: C++ code that a Python program loads when it has fibers, for test_switch.py. */

/* Calls back while it handles an exception of that value, and gives the one that it handles then. */
extern "C" int catches(int value, void (*callback)())
{
	try {
		throw value;
	} catch (int) {
		callback();
		try {
			throw;
		} catch (int handled) {
			return handled;
		}
	}
}
