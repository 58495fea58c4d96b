    .section .text.start
    .global _start, bitstream_image_id
_start:
    j 1f
    .balign 4
bitstream_image_id:     /* word 1 of the RAM; whatever makes the RAM's contents puts the id there */
    .word 0
1:  la sp, _stack_top
    la t0, _bss_start
    la t1, _bss_end
2:  bgeu t0, t1, 3f
    sw zero, 0(t0)
    addi t0, t0, 4
    j 2b
3:  call main
4:  j 4b
