/* Readouts with a state of constant size: linear, and plain with a running maximum.
 *
 * Needs lanes, arithmetic.h and rows.h. */

#define read_sums NAME(read_sums)

/* One query of one sequence: a and b [HP] -> o [HP]; the state goes from `past` to `next`. */
CAUSALRN_INLINE void read_sums(const causalrn_session *s, int block, size_t b, size_t query, float *ab, float *o)
{
    float *const values = ab + HP;
    float *const *const next = (float *const *)(const void *)s->next + block * PER_BLOCK;
    float *const *const past = query > 0 ? next : (float *const *)(const void *)s->past + block * PER_BLOCK;
    const size_t at = b * HP;
#if CAUSALRN_READOUT == CAUSALRN_LINEAR
    (void)normalize(ab, ab, HP, HIDDEN);
    (void)normalize(values, values, HP, HIDDEN);
    const lanes most = set(CAUSALRN_GUARDED && FORGETS_SCALE ? largest_of(ab, HP, HIDDEN) : 0.0f); /* it cancels */
    for (int i = 0; i < HP; i += LANES) {
        const lanes value = natural_exp(load(values + i));
#if CAUSALRN_COMPENSATED /* Kahan 1965: a stream without end adds up so much that rounding shows */
        const lanes added = sub(value, load(past[0] + at + i)), before = load(past[1] + at + i);
        const lanes total = add(before, added);
        store(next[0] + at + i, sub(sub(total, before), added));
        store(next[1] + at + i, total);
#else
        const lanes total = add(load(past[0] + at + i), value);
        store(next[0] + at + i, total);
#endif
        store(o + i, mul(natural_exp(sub(load(ab + i), most)), total));
    }
#else /* plain: sum_j exp(b_j) as a running maximum and a sum scaled by it */
    const int fresh = s->position == 0 && query == 0; /* then the past maximum is ignored, not compared */
    for (int i = 0; i < HP; i += LANES) {
        const lanes value = load(values + i), before = fresh ? value : load(past[0] + at + i);
        const lanes maximum = larger(before, value);
        const lanes kept = mul(load(past[1] + at + i), natural_exp(sub(before, maximum)));
        store(next[0] + at + i, maximum);
        store(next[1] + at + i, add(kept, natural_exp(sub(value, maximum))));
        store(ab + i, add(load(ab + i), maximum));
    }
    const lanes most = set(FORGETS_SCALE ? largest_of(ab, HP, HIDDEN) : 0.0f); /* cancels in the norm after */
    for (int i = 0; i < HP; i += LANES)
        store(o + i, mul(natural_exp(sub(load(ab + i), most)), load(next[1] + at + i)));
#endif
}
