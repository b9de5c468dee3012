/* Which compartment may make which system call. Include it where the shim decides.
 * A call that a compartment may not make fails with EPERM, or with ENOSYS if its number is at least ..._YOUNG:
 * callers of new calls have another way on ENOSYS only. */
#ifndef BULKHEAD_POLICY_H
#define BULKHEAD_POLICY_H

#include <stdint.h>

/* /usr/sbin/app (amd64) */
enum app_compartment {
	APP_UNKNOWN = 0, /* [unknown] */
	APP_APP = 1, /* app */
	APP_TLS_EVIL = 2, /* tls./evil */
	APP_COMPARTMENTS = 3
};

static const uint64_t app_allowed[APP_COMPARTMENTS][8] = {
	{0x100000000000800bu, 0x0000000000000000u, 0x0000000000000000u, 0x0000009008000400u, 0x0000000000000000u, 0x0000000000000000u, 0x0000000000000000u, 0x0000000000000000u},
	{0x180000700000800bu, 0x0000001000000000u, 0x0000000000000000u, 0x00000097c8000400u, 0x00000000c8000002u, 0x0000000000000000u, 0x0000020000000000u, 0x0000000000000000u},
	{0x100000000000800bu, 0x0000000000000000u, 0x0000000000000000u, 0x0000009008000400u, 0x4000000000000002u, 0x0000000000000000u, 0x0000000000000000u, 0x0000000000000000u},
};

enum { APP_YOUNG = 332 };

static inline int app_allows(unsigned compartment, unsigned long nr)
{
	return compartment < APP_COMPARTMENTS && nr < 512 && (app_allowed[compartment][nr / 64] >> (nr % 64) & 1);
}

/* /usr/bin/Helper (amd64) */
enum helper_compartment {
	HELPER_UNKNOWN = 0, /* [unknown] */
	HELPER_HELPER = 1, /* Helper */
	HELPER_COMPARTMENTS = 2
};

static const uint64_t helper_allowed[HELPER_COMPARTMENTS][8] = {
	{0x100000000000800bu, 0x0000000000000000u, 0x0000000000000000u, 0x0000009008000400u, 0x0000000000000000u, 0x0000000000000000u, 0x0000000000000000u, 0x0000000000000000u},
	{0x100000000000820bu, 0x0000000000000000u, 0x0000000000000000u, 0x0000009008000400u, 0x0000000000000002u, 0x0000000000000000u, 0x0000000000000000u, 0x0000000000000000u},
};

enum { HELPER_YOUNG = 332 };

static inline int helper_allows(unsigned compartment, unsigned long nr)
{
	return compartment < HELPER_COMPARTMENTS && nr < 512 && (helper_allowed[compartment][nr / 64] >> (nr % 64) & 1);
}

#endif
