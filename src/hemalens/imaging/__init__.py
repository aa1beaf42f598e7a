"""Images as arrays: safe reading, and pure functions that find a cell and cut it out.

Begin with `reading.read_image`; `formats`, `headers`, `tiff`, `depth` and `quiet` are its parts. `segmentation` finds the
white cell by colour, `nucleus` its nucleus, `centred_crop` the window around it, `compositing` puts masked cells on other
backgrounds, `evidence` draws maps over images.
Imports `config`, `files` and `errors`; no torch.
"""
