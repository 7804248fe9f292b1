"""The evidence: what base, SFT and DPO answer, by ground truth, by the judge, and by the texts themselves."""
