from setuptools import setup

PACKAGE = "dovetail_scheduler"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=[PACKAGE],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ],
    package_data={PACKAGE: ["recipes/*.yaml"]},
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="Dovetail maintainers",
    maintainer_email="maintainers@dovetail.example",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "scheduler = dovetail_scheduler.scheduler_node:main",
            "operator = dovetail_scheduler.operator_node:main",
        ]
    },
)
