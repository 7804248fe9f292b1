"""SFT and DPO: rows in, an adapter, its training curve and a health verdict out."""
