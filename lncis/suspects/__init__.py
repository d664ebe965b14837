"""Which labels are probably wrong: scores, their quality, a plan of review, a gallery, repair and exports."""
