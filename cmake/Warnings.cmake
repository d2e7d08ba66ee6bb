# Flags of every target of ours, on one INTERFACE target.
add_library(cairn_flags INTERFACE)
target_compile_options(cairn_flags INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wvla -Wno-format-zero-length -fvisibility=hidden -fno-omit-frame-pointer
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes>
  -fstack-protector-strong -fstack-clash-protection -fcf-protection=full)
# clang 14 knows this one but refuses it without a second, secret one.
include(CheckCCompilerFlag)
check_c_compiler_flag(-ftrivial-auto-var-init=zero CAIRN_HAS_AUTO_VAR_INIT)
if(CAIRN_HAS_AUTO_VAR_INIT)
  target_compile_options(cairn_flags INTERFACE -ftrivial-auto-var-init=zero)
endif()
target_compile_definitions(cairn_flags INTERFACE _GNU_SOURCE)
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_options(cairn_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif()
target_link_options(cairn_flags INTERFACE -Wl,-z,relro,-z,now -Wl,--as-needed)
# What is marked with CAIRN_LTO is optimised as a whole when it is linked: the way of an entry through the daemon, and of a call through
# the SDK, is many small functions of many files. Objects hold ordinary code as well, which all others (tests, benchmarks) are linked from
# at once.
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
  target_compile_options(cairn_flags INTERFACE -flto=auto -ffat-lto-objects)
  target_link_options(cairn_flags INTERFACE $<IF:$<BOOL:$<TARGET_PROPERTY:CAIRN_LTO>>,-flto=auto,-fno-lto>)
endif()
option(CAIRN_WERROR "Treat warnings as errors (on in CI)" OFF)
if(CAIRN_WERROR)
  target_compile_options(cairn_flags INTERFACE -Werror)
endif()
