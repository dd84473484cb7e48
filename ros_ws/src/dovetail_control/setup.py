from setuptools import setup

PACKAGE = "dovetail_control"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=[PACKAGE],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="Dovetail maintainers",
    maintainer_email="maintainers@dovetail.example",
    license="Apache-2.0",
    entry_points={"console_scripts": ["control = dovetail_control.control_node:main"]},
)
