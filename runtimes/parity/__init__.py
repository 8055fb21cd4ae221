"""Parity: the runtimes of one model compared with its oracle, level by level; for what differs: where, since when, why.

What is tested is whether samples of token sequences stay within a rounding bound that is estimated from the model
itself (docs/parity.md). Data flows: tokens -> `Reference` (expected values and error bounds, from oracle.py or
golden.py) -> `Traces` (runs of a session) -> levels -> `LevelResult` -> `Attribution` of what failed -> `VerifyReport`.

Example, on a device, without torch:

    bundle = Bundle.open("bundle")
    golden = load_golden(bundle)
    with OnnxRuntimeSession(bundle) as session:
        verification = Verification(
            {"onnxruntime": session},
            Case(golden.reference),
            Plan(levels=("logits", "state", "split")),
            RecordedLongReference(golden.reference),
            lambda name, threads: OnnxRuntimeSession(bundle, threads=threads or 1),
            Comparators(peers={}),
            golden=golden,
        )
        verification.run()
    for result in verification.results:
        print(result.level, result.runtime, result.passed, result.error, result.allowed)
"""
