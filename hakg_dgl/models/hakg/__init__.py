"""HAKG: settings, network, objective, explanation, and the model that declares them.

Du et al., "HAKG: Hierarchy-Aware Knowledge Gated Network for Recommendation", SIGIR 2022 (arXiv 2204.04959).
"""

from hakg_dgl.models.hakg.model import HAKG
from hakg_dgl.models.hakg.settings import HAKGLossSettings, HAKGSettings

__all__ = ["HAKG", "HAKGLossSettings", "HAKGSettings"]
