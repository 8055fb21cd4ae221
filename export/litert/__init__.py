"""LiteRT: converts the recurrent cell to one .tflite file with a signature for steps and one for prefill.

litert_exporter.py converts, litert_quantizer.py rounds weights to int8.
"""
