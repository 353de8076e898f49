/* SPDX-License-Identifier: MIT */
/* The part of Wine's test harness that its fiber test uses. */
#ifndef JUDGES_WINE_TEST_H
#define JUDGES_WINE_TEST_H

#include "winternl.h"

void test_ok(int line, int good, const char *format, ...);
void test_skip(int line, const char *format, ...);
int winetest_get_mainargs(char ***argv);

#define ok(condition, ...) test_ok(__LINE__, !!(condition), __VA_ARGS__)
#define win_skip(...) test_skip(__LINE__, __VA_ARGS__)
/* What Wine fails and Windows does not is to succeed here. */
#define todo_wine

#define START_TEST(name) void test_main(void)

#endif /* JUDGES_WINE_TEST_H */
