"""A stand-in for the parts of ComfyUI that a sampler meets, written for the tests.

It follows the shapes of the calls, of their arguments and of what they return; none of it is
ComfyUI's code. This folder is put on the path only where a test asks for it.
"""
