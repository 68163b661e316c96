#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A guest with a shell on this terminal. Takes the settings of guest.sh.
export INTERACTIVE=1
exec "$(dirname "$0")/guest.sh"
