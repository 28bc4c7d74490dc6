"""Names in VSPW's layout that its writers and readers share.

Source: Miao et al., VSPW, CVPR 2021, as its published copy lays files out.
"""

CLASS_NUMBERS = "label_num_dic_final.json"
"""File that names the classes; a mask holds the number, and 0 for none."""
