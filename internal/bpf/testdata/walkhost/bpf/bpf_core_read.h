/* In a process all structures are what kernel.h says: no field of another kernel is there. */
#pragma once

#define bpf_core_field_exists(field) 0
