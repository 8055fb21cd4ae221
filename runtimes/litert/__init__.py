"""LiteRT: runs a converted bundle's .tflite file, as phones and boards do; here on the CPU."""
