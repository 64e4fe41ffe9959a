"""What validation shows a model at other sizes than it was configured for."""

from pydantic import ValidationError

from engine.values.text import cut, explain
from pipeline.config import DataConfig


def at_sizes(data: DataConfig, image_size: int | None = None, patch_size: int | None = None) -> DataConfig:
    """``data`` with images and patches of other sizes, in pixels (None: as configured), and all else as it is.

    Raises:
        ValueError: a size below 1, or a patch that does not divide the image.
    """
    asked = {"image_size": image_size, "patch_size": patch_size}
    changes = {key: size for key, size in asked.items() if size is not None}
    try:
        return DataConfig.model_validate({**data.model_dump(), **changes})
    except ValidationError as error:
        raise ValueError("; ".join(cut(explain(detail, DataConfig), 500) for detail in error.errors())) from None
