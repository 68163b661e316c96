// SPDX-License-Identifier: GPL-2.0
/* The trace events that `emu` emits, in a trace system with this module's name. */
#define DMIRROR_TRACE_SYSTEM minimal
#include "../../rust/helpers/trace.c"
