"""The attacks of other libraries, with their own classes and conventions, run by this library's kernels and engines.

One import line changes: ``from fairtat.integrations.torchattacks import PGD`` in place of ``from torchattacks import
PGD``. Each attack here is a subclass of the peer's class, or a function with the peer's arguments, so the rest of a
script goes on as it is: targeted modes, criteria, lists of radii, saving. Random starts are drawn as the peer draws
them, from the same generator, so a seed gives the same start. Where the peer computes something else than
:func:`fairtat.fast_pgd` does (masks, other norms, models in train mode), the peer's own loop runs, and one `PeerLoop`
warning says why.
"""

from fairtat.integrations.peer import PeerLoop

__all__ = ["PeerLoop"]
