import pytest

from cache.errors import RecipeError
from pipeline.datasets import ADAPTERS, adapter_named


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_adapter_is_found_by_its_own_name(name: str) -> None:
    assert adapter_named(name).name == name


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"'next-qa' \(did you mean 'nextqa'\?\); there are: egoschema, how2qa, "):
        adapter_named("next-qa")
    with pytest.raises(RecipeError, match="'zzz'; there are"):
        adapter_named("zzz")
