/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A program of 32 bits, which waits for ever: pause(), again and again.
 */
#define NR_PAUSE 29

	.globl	_start
_start:
#ifdef __i386__
	movl	$NR_PAUSE, %eax
	int	$0x80
	jmp	_start
#else
	.arm
	mov	r7, #NR_PAUSE
	svc	#0
	b	_start
#endif
	.section .note.GNU-stack, "", %progbits
