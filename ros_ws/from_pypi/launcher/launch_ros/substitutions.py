"""Where packages are."""

import os

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from launch.core import (
    LaunchContext,
    SomeText,
    Substitution,
    SubstitutionFailure,
    as_substitutions,
    perform,
)
from launch.refusal import refuse_names

__all__ = ["FindPackagePrefix", "FindPackageShare"]


class FindPackagePrefix(Substitution):
    """The prefix that a package is installed under."""

    def __init__(self, package: SomeText) -> None:
        """The package's name may be a substitution."""
        self._package = as_substitutions(package)

    def perform(self, context: LaunchContext) -> str:
        """The path.

        Raises:
            SubstitutionFailure: the package is not installed.
        """
        package = perform(context, self._package)
        try:
            return str(get_package_prefix(package))
        except PackageNotFoundError as error:
            raise SubstitutionFailure(str(error)) from error


class FindPackageShare(FindPackagePrefix):
    """The share folder of a package."""

    def perform(self, context: LaunchContext) -> str:
        """The path.

        Raises:
            SubstitutionFailure: the package is not installed.
        """
        return os.path.join(super().perform(context), "share", perform(context, self._package))


__getattr__ = refuse_names("launch_ros.substitutions")
