/* 16 lanes: the names of all operations. One of the lanes_*.h that follow defines them, for an instruction set.
 *
 * madd(a, b, c) = a * b + c: rounded once where the processor can, unless CAUSALRN_REPRODUCIBLE asks for two roundings,
 * which every machine can. sum() adds lane i to lane i + 8, then + 4, + 2, + 1; sum4() does so for four rows at once.
 * hold() is what it is given, in registers: compilers read what several rows need from memory again for each of them.
 * counts are 16 exact int32 sums of products of int8: dot4() adds four products to each, counted() gives them as lanes.
 * Without vectors they would not fit into registers: there dots() gives all of a column instead, a few sums at a time.
 *
 * Needs names.h. */

#define lanes NAME(lanes)
#define counts NAME(counts)
#define set NAME(set)
#define load NAME(load)
#define store NAME(store)
#define hold NAME(hold)
#define add NAME(add)
#define sub NAME(sub)
#define mul NAME(mul)
#define divide NAME(divide)
#define root NAME(root)
#define larger NAME(larger)
#define madd NAME(madd)
#define sum NAME(sum)
#define sum4 NAME(sum4)
#define largest NAME(largest)
#define scale_by_power NAME(scale_by_power)
#define load_int8 NAME(load_int8)
#define load_half NAME(load_half)
#define store_half NAME(store_half)
#define no_counts NAME(no_counts)
#define dot4 NAME(dot4)
#define dots NAME(dots)
#define counted NAME(counted)
