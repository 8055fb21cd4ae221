/* exp, gelu, and f's outer function for this model.
 *
 * Needs lanes. docs/native.md of the toolkit has the errors. */

#define exp2_near NAME(exp2_near)
#define exp2_any NAME(exp2_any)
#define natural_exp NAME(natural_exp)
#define gelu NAME(gelu)
#define activate NAME(activate)

#define LOG2E 1.44269504f
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number, which then stands in the lowest bits */

/* 2^t for |t| < 126: t = n + f with |f| <= 1/2, a polynomial of degree 5 for 2^f (minimax, 7.5e-8), n into the
 * exponent. Relative error at most 2.4e-7, measured over every float in [-126, 126]. */
CAUSALRN_INLINE lanes exp2_near(lanes t)
{
    const lanes n = add(t, set(ROUNDER)), f = sub(t, sub(n, set(ROUNDER)));
    lanes p = madd(f, set(0x1.5c08e6p-10f), set(0x1.3d0c52p-7f));
    p = madd(p, f, set(0x1.c6b6e4p-5f));
    p = madd(p, f, set(0x1.ebf918p-3f));
    p = madd(p, f, set(0x1.62e428p-1f));
    p = madd(p, f, set(0x1.000002p+0f));
    return scale_by_power(p, n);
}

/* 2^t for any t: at least 2^-125, infinity from 2^128. */
CAUSALRN_INLINE lanes exp2_any(lanes t)
{
    const lanes down = larger(t, set(-125.0f)), up = larger(sub(set(0.0f), down), set(-128.25f));
    return mul(exp2_near(sub(set(-1.0f), up)), set(2.0f));
}

CAUSALRN_INLINE lanes natural_exp(lanes x) { return exp2_any(mul(x, set(LOG2E))); }

/* x Phi(x) = max(x, 0) - |x| Q(|x|), with Q(z) = exp(-z^2 / 2) R(1 / (1 + 0.35 z)) and a fitted polynomial for R. Error at
 * most 1.3e-7 max(1, |x|), measured over every float in [-30, 30]. */
CAUSALRN_INLINE lanes gelu(lanes x)
{
    const lanes z = larger(x, sub(set(0.0f), x)), t = divide(set(1.0f), madd(z, set(0.35f), set(1.0f)));
    lanes r = madd(t, set(0x1.9516p-6f), set(-0x1.56e7aap-4f));
    r = madd(r, t, set(-0x1.1b0096p-8f));
    r = madd(r, t, set(0x1.0b41acp-2f));
    r = madd(r, t, set(-0x1.fc614ap-6f));
    r = madd(r, t, set(0x1.a9d18p-3f));
    r = madd(r, t, set(0x1.fba706p-4f));
    r = madd(r, t, set(0x1.867698p-10f));
    r = mul(r, exp2_any(mul(mul(z, z), set(-0.5f * LOG2E))));
    return sub(larger(x, set(0.0f)), mul(z, r));
}

#if CAUSALRN_READOUT == CAUSALRN_EXACT && CAUSALRN_HIDDEN / CAUSALRN_HEADS < 7600
#define exp2_pair exp2_near /* |LN0| < sqrt(D) bounds the exponent */
#else
#define exp2_pair exp2_any
#endif

/* f's outer function. For exp, x comes times log2(e) already. */
CAUSALRN_INLINE lanes activate(lanes x)
{
#if CAUSALRN_ACTIVATION == CAUSALRN_EXP
    return exp2_pair(x);
#elif CAUSALRN_ACTIVATION == CAUSALRN_RELU
    return larger(x, set(0.0f));
#elif CAUSALRN_ACTIVATION == CAUSALRN_GELU
    return gelu(x);
#else /* elu */
    const lanes zero = set(0.0f), negative = sub(zero, larger(sub(zero, x), zero));
    return add(larger(x, zero), sub(natural_exp(negative), set(1.0f)));
#endif
}
#define PAIR_SCALE (CAUSALRN_ACTIVATION == CAUSALRN_EXP ? LOG2E : 1.0f)
