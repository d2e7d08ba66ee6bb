/* cmocka's header with what it wants before it. */
#ifndef CAIRN_TESTS_SUPPORT_TEST_H
#define CAIRN_TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#endif
