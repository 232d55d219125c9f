"""Losses as modules, drop-in for the libraries that people already use; one file per loss."""

from ._memory_bank import MemoryBank
from .barlow_twins import BarlowTwinsLoss
from .capi import CAPILoss
from .clip import CLIPLoss
from .dcl import DCLLoss, DCLWLoss
from .dino import DINOLoss
from .falcon import FalconLoss
from .gram_anchor import GramAnchorLoss
from .graph_siglip import GraphSigLIPLoss
from .ibot import IBOTPatchLoss, IBOTPlusPlusPatchLoss
from .info_nce import InfoNCELoss
from .koleo import KoLeoLoss
from .lejepa import LeJEPALoss
from .matryoshka import MatryoshkaLoss
from .modules import GraphLoss
from .msn import MSNLoss, PMSNLoss
from .negative_cosine import NegativeCosineSimilarity
from .nt_xent import NTXentLoss
from .siglip import SigLIPLoss
from .sigreg import SIGReg
from .spectral_contrastive import SpectralContrastiveLoss
from .sup_con import SupConLoss
from .swav import SwaVLoss
from .vicreg import VICRegLoss

__all__ = [
    "BarlowTwinsLoss",
    "CAPILoss",
    "CLIPLoss",
    "DCLLoss",
    "DCLWLoss",
    "DINOLoss",
    "FalconLoss",
    "GramAnchorLoss",
    "GraphLoss",
    "GraphSigLIPLoss",
    "IBOTPatchLoss",
    "IBOTPlusPlusPatchLoss",
    "InfoNCELoss",
    "KoLeoLoss",
    "LeJEPALoss",
    "MSNLoss",
    "MatryoshkaLoss",
    "MemoryBank",
    "NTXentLoss",
    "NegativeCosineSimilarity",
    "PMSNLoss",
    "SIGReg",
    "SigLIPLoss",
    "SpectralContrastiveLoss",
    "SupConLoss",
    "SwaVLoss",
    "VICRegLoss",
]
