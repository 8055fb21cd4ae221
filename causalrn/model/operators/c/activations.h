/* The activation and its slope at x = pair * scale. For exp the scale has the factor log2(e) in it already.

   2^y = 2^n * 2^f with n the nearest integer: adding 1.5 * 2^MANTISSA leaves n in the lowest bits of the sum. The
   polynomials, from the constant term upwards, have the least largest relative error (Remez) over

     EXP2    2^f, |f| <= 1/2                                               9e-8 (float, exact at 0), 3e-18 (double)
     EXPM1   (2^f - 1) / f, |f| <= 1/2                                     1e-8, 2e-19
     TAIL    P(X > u) exp(u^2 / 2) (u + 4) of a normal X, by (u - 4) / (u + 4)    2e-8, 8e-18 */

#define EXP 0
#define RELU 1
#define ELU 2
#define GELU 3

#define LOG2_E ((Real)1.4426950408889634074)
#define INVERSE_ROOT_2_PI ((Real)0.39894228040143267794)
#define COUNT(array) ((int)(sizeof(array) / sizeof(array[0])))

#if USE_DOUBLE
#define MANTISSA 52
#define BIAS 1023
static const Real EXP2[] = {
    0.99999999999999999703, 0.69314718055994533097, 0.24022650695910157902, 0.055504108664819887899,
    0.0096181291075876934526, 0.0013333558146795799625, 0.00015403530463343056262, 0.000015252733486148910498,
    1.3215432660898830866e-6, 1.0178198942402447463e-7, 7.0741821798656683261e-9, 4.435238322399362662e-10};
static const Real EXPM1[] = {
    0.69314718055994530925, 0.24022650695910071287, 0.055504108664821627481, 0.0096181291076284361381,
    0.0013333558146406278844, 0.00015403530393467527471, 0.000015252733841828035019, 1.3215486720531540492e-6,
    1.0178056938043530492e-7, 7.0549324364624392679e-9, 4.4558459531858381796e-10, 2.5678430147501405052e-11};
static const Real TAIL[] = {
    0.75528513041575149528, -0.60789664197189224909, 0.38713740074221395443, -0.18652185795964114869,
    0.060396574890965078015, -0.0075401889672664882983, -0.0034796923679503880597, 0.0016308184659524327133,
    0.00013334431829421364814, -0.0002310950075315768084, -1.9082977938289269046e-6,
    0.000035145071449553596823, 7.1684720452959537641e-7, -5.9215042811042875646e-6,
    -6.3029028120259611792e-7, 1.0246005943137393352e-6, 2.731900368515364018e-7, -1.5956625370100475758e-7,
    -8.7635294749244990117e-8, 1.7698217983801029004e-8, 2.1942588317773324209e-8, -5.2833278695835543663e-10,
    -3.9286185225775149473e-9, -1.3029889895559456459e-10, 3.7360059623867259695e-10};
#else
#define MANTISSA 23
#define BIAS 127
static const Real EXP2[] = {
    1, 0.6931469763830741, 0.24022240460647518, 0.055507350313170695, 0.00967161899854273, 0.0013264590830184533};
static const Real EXPM1[] = {
    0.69314718801519442056, 0.24022649784119979522, 0.055503570056933549254, 0.0096182383614743105606,
    0.0013390964324445069073, 0.00015403513228889048725};
static const Real TAIL[] = {
    0.75528511779106568492, -0.60789647429906666035, 0.38713808439312048719, -0.18652573172633554808,
    0.060390814341069009905, -0.0075158541177784211647, -0.0034629748193429789183, 0.0015687123211936178639,
    0.00011368033781836039574, -0.00015954178599350240636, 6.438051355305636762e-6};
#endif
#define POLYNOMIAL(x, coefficients) horner(x, coefficients, COUNT(coefficients))
#define MAGIC ((Real)1.5 * (Real)((Bits)1 << MANTISSA))

INLINE Vector horner(Vector x, const Real *coefficients, int count) {
  Vector sum = all(coefficients[count - 1]);
#pragma GCC unroll 32
  for (int i = count - 2; i >= 0; i--) sum = sum * x + all(coefficients[i]);
  return sum;
}

/* 2^(pair * scale) where it is known that no exponent overflows. */
INLINE Vector exp2_bounded(Vector pair, Vector scale) {
  Vector shifted = pair * scale + MAGIC;
  Vector fraction = pair * scale - (shifted - MAGIC);
  return (Vector)((Integers)POLYNOMIAL(fraction, EXP2) + ((Integers)shifted << MANTISSA));
}

/* 2^y for any y: 0 below the smallest normal number, infinity above the largest; NaN stays. */
INLINE Vector exp2_any(Vector y) {
  const Real most = BIAS + 1, least = 1 - BIAS;
  y = WHERE(y > most, all(most), y);
  y = WHERE(y < least, all(least), y);
  Vector shifted = y + MAGIC;
  Vector half_power = (Vector)(((Integers)shifted + (BIAS - 1)) << MANTISSA);
  return POLYNOMIAL(y - (shifted - MAGIC), EXP2) * half_power * 2;
}

/* exp(x) - 1 for x <= 0, with full precision near 0. */
INLINE Vector expm1_negative(Vector x) {
  const Real least = -100;
  Vector y = x * LOG2_E;
  y = WHERE(y < least, all(least), y);
  Vector shifted = y + MAGIC, fraction = y - (shifted - MAGIC);
  Vector power = (Vector)(((Integers)shifted + BIAS) << MANTISSA);
  return power * (fraction * POLYNOMIAL(fraction, EXPM1)) + (power - 1);
}

/* exp(-x^2 / 2), and P(X > |x|) of a normal X. */
INLINE void normal_tail(Vector x, Vector *density, Vector *tail) {
  Vector size = WHERE(x < 0, -x, x), far = 1 / (size + 4);
  *density = exp2_any(x * x * ((Real)-0.5 * LOG2_E));
  *tail = *density * POLYNOMIAL(1 - 8 * far, TAIL) * far;
}

/* Whether no exponent of an exp overflows: |LN0| is at most the root of the width. */
INLINE int is_bounded(int64_t width) { return NORMALIZED && sqrt((double)width) * LOG2_E < BIAS - 2; }

/* `bounded`: as is_bounded says. */
INLINE Vector value_at(Vector pair, Vector scale, int bounded) {
  Vector x = pair * scale;
  if (ACTIVATION == EXP) return bounded ? exp2_bounded(pair, scale) : exp2_any(x);
  if (ACTIVATION == RELU) return WHERE(x < 0, all(0), x);
  if (ACTIVATION == ELU) return WHERE(x < 0, expm1_negative(WHERE(x < 0, x, all(0))), x);
  Vector density, tail;
  normal_tail(x, &density, &tail);
  return x * WHERE(x < 0, tail, 1 - tail);
}

INLINE Vector slope_at(Vector pair, Vector scale, int bounded) {
  Vector x = pair * scale;
  if (ACTIVATION == EXP) return value_at(pair, scale, bounded);
  if (ACTIVATION == RELU) return WHERE(x > 0, all(1), all(0));
  if (ACTIVATION == ELU) return WHERE(x < 0, value_at(pair, scale, bounded) + 1, all(1));
  Vector density, tail;
  normal_tail(x, &density, &tail);
  return WHERE(x < 0, tail, 1 - tail) + x * density * INVERSE_ROOT_2_PI;
}
