/* int8 products by the vectors of RISC-V: of 16 outputs at a time, each of four inputs in a vector of its own. Two products
 * fit into 16 bits.
 *
 * Needs dots_plain.h and <riscv_vector.h>, whose names begin with __riscv_ where it has a version. */

#ifdef __riscv_v_intrinsic
#define RVV(name) __riscv_##name
#else
#define RVV(name) name
#endif
CAUSALRN_INLINE counts dots(const int8_t *w, size_t step, const int8_t *in, int depth)
{
    vint32m4_t sums = RVV(vmv_v_x_i32m4)(0, LANES);
    counts r;
    for (int k = 0; k < depth; k += 4, w += step) {
#ifdef __riscv_v_intrinsic
        const vint8m1x4_t all = __riscv_vlseg4e8_v_i8m1x4(w, LANES);
        const vint8m1_t w0 = __riscv_vget_v_i8m1x4_i8m1(all, 0), w1 = __riscv_vget_v_i8m1x4_i8m1(all, 1),
                        w2 = __riscv_vget_v_i8m1x4_i8m1(all, 2), w3 = __riscv_vget_v_i8m1x4_i8m1(all, 3);
#else
        vint8m1_t w0, w1, w2, w3;
        vlseg4e8_v_i8m1(&w0, &w1, &w2, &w3, w, LANES);
#endif
        vint16m2_t one = RVV(vwmul_vx_i16m2)(w0, in[k], LANES), two = RVV(vwmul_vx_i16m2)(w2, in[k + 2], LANES);
        one = RVV(vwmacc_vx_i16m2)(one, in[k + 1], w1, LANES);
        two = RVV(vwmacc_vx_i16m2)(two, in[k + 3], w3, LANES);
        sums = RVV(vwadd_wv_i32m4)(RVV(vwadd_wv_i32m4)(sums, one, LANES), two, LANES);
    }
    RVV(vse32_v_i32m4)(r.v, sums, LANES);
    return r;
}
#undef RVV
