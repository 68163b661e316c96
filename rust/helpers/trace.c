// SPDX-License-Identifier: GPL-2.0
/*
 * Defines the trace events of dmirror_events.h, once for each module: trace.o of dmirror.ko, or an
 * object of another module that includes this file.
 */
#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "dmirror_events.h"
