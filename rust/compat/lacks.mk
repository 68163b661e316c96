# SPDX-License-Identifier: GPL-2.0
#
# What a supported kernel may lack. Each line asks its source for one item, and names
# the last series without it: when that series goes, so do the line and what compat.c,
# hmm.rs and emu.rs have for it. Documentation/series.md names the few lines elsewhere
# that depend on the series.

# Headers alone do not say what the kernel crate has.
ifeq ($(wildcard $(srctree)/rust/kernel/lib.rs),)
$(error dmirror: the source of the kernel crate is not in $(srctree)/rust)
endif

# compat-lacks NAME,FILE,TEXT : NAME, if FILE of the kernel's source has no such words, or
# is not there. Make would need both of a pair of parentheses.
compat-lacks = $(if $(shell grep -swF -e '$(3)' $(srctree)/$(2)),,$(1))

# 7.2
compat-rust += $(call compat-lacks,errno,rust/kernel/error.rs,EOPNOTSUPP)
compat-rust += $(call compat-lacks,misc_owner,rust/kernel/miscdevice.rs,T::OwnerModule)
compat-rust += $(call compat-lacks,parameter_copy,rust/kernel/module_param.rs,pub fn value_ref)
compat-rust += $(call compat-lacks,spinlock_irq,rust/kernel/sync/lock/spinlock.rs,SpinLockIrq)
compat-rust += $(call compat-lacks,tgid,rust/kernel/task.rs,pub fn tgid)
compat-rust += $(call compat-lacks,this_module,rust/kernel/module.rs,const THIS_MODULE: ThisModule)

# 7.2
compat-c += $(call compat-lacks,anon_pgoff,include/linux/mm.h,pgoff_t vma_start_anon_pgoff)
compat-c += $(call compat-lacks,init_fs,include/linux/fs_struct.h,scoped_with_init_fs)
compat-c += $(call compat-lacks,range_fault_unlocked,include/linux/hmm.h,int hmm_range_fault_unlocked_timeout)

compat-rust := $(strip $(compat-rust))
compat-c := $(strip $(compat-c))
ccflags-y += $(addprefix -DLACKS_,$(compat-c) $(compat-rust))
rustflags-y += $(addprefix --cfg=lacks_,$(compat-rust))
