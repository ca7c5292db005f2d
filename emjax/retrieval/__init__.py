"""Phase retrieval: what scattered the electrons, from what the detector counted.

`scan_data` holds a four-dimensional scan, `ptychography` is its forward model and what is unknown
in it, `likelihoods` compares rates with counts. `gradient`, `epie`, `lsqml` and `difference_map`
fit; `engines` has them by name and runs them one after the other; `regularisers` and `constraints`
say what is believed, `plans` what works where nobody says otherwise. `centre_of_mass`, `parallax`
and `direct` image without iterating; `geometry` finds defocus, rotation and mirrors before the
first iteration. The physics is that of `simulators`.
"""
