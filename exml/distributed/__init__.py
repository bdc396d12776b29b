"""Learning over several processes (ranks), on one machine or many, on :mod:`torch.distributed`."""
