"""onnxruntime's own ops written out in ops of the ONNX standard, so that rules, heads and layouts meet only those.

A graph that onnxruntime optimised and saved holds ops of its own: convolutions with their activation, attention as one
node, normalisations with the sum before them, convolutions on channels in blocks. Each is a product of ops that the
standard has, which its entry's ``expansion`` writes; `lieaudit.graph.forward.expand` puts that in the node's place.
One function an op, in the module of its family. A form that no function covers stays as it is: the generic rule
differentiates it, and the report says so.
"""
