"""Kineto traces: read, written, and turned into the sections of a recording. Needs no torch.

reader: a file into columns. sections: columns into kernels, gaps, waits, a timeline. writer: a timeline into
a file that TensorBoard, Perfetto and HolisticTraceAnalysis open.
"""
