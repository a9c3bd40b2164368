"""Why a score is what it is, and embeddings for other programs: explanations, pictures, export."""
