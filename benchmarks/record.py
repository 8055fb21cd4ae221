"""What a token costs in every runtime and beside its peers, as docs/benchmarks.md shows it. Run it, from anywhere:

    python benchmarks/record.py [--output docs] [--repeats N] [--quick]

It needs `pip install 'causalrn[bench]'`, gcc or clang, g++ (torch.compile), clang with lld and node (the web bundle),
one quiet core and about ten minutes. For models of the paper's size (E = H = 192, 12 blocks, vocabulary 29, capacity
4,224; random weights of unit gain) it measures

- every runtime and peer at depths 16, 128, 1,024 and 4,096, and a prefill of 512 tokens, in one interleaved run;
- exact and linear, in C and onnxruntime, at nine depths: how time grows, and whether memory is the formula's;
- one and two threads, one and eight sequences;
- what is predicted for this machine, from its micro-kernels alone, beside what was measured;

writes benchmarks.md, benchmarks.json and two plots, and prints each row's time over that in the benchmarks.json before.
"""

if __name__ == "__main__":  # candidates' processes import this file, too: what they do not need would count as theirs
    from recording import main

    main(__doc__)
