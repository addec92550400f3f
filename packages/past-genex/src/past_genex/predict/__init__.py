"""Expression predicted for the cells of any H&E, with what each gene's prediction is worth."""

from past_genex.predict.reading import Prediction, PredictionError, PredictionNotFoundError, read_prediction

__all__ = ["Prediction", "PredictionError", "PredictionNotFoundError", "read_prediction"]
