"""Which pages are run, and what stands there for a reader's own files, weights and clusters."""

from benchmarks.guide_pages import Page

BUNDLES = """
past demo bundles --patients 3 --size 250
for p in P1 P2 P3; do
  past ingest bundles/$p --he bundles/$p/${p}_he_image.ome.tif -o $p.zarr --patient $p
done
"""

SHORT = "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1"
SERVES = "shows a page until it is stopped; tests/core open it in a browser"
LARGE = "the paper's size, for a machine with GPUs"

README = Page(
    "README.md",
    prepare=BUNDLES
    + """
mv bundles/P1 BUNDLE && cp BUNDLE/P1_he_image.ome.tif HE.svs && cp BUNDLE/P1_he_image.ome.tif HE.tif
cp BUNDLE/*imagealignment.csv MATRIX.csv
mv P1.zarr A.zarr && mv P2.zarr B.zarr && mv P3.zarr C.zarr && cp -r A.zarr STORE.zarr
python -c 'import anndata; anndata.read_zarr("A.zarr/tables/cells").write_h5ad("CELLS.h5ad")'
{ echo slide,bundle,he,patient,cancer
  echo P2,bundles/P2,bundles/P2/P2_he_image.ome.tif,P2,lung; } > SHEET.csv
""",
    skip={
        r"^pip install": "installs into the environment that it is run in",
        r"uv run pytest": "the tests are CI's own step",
        r"past view": SERVES,
        r"scale/paper\.yaml --data": LARGE,
        r"tensorboard": SERVES,
    },
    shorten={
        r"lightning fit -c recipes/pretrain\.yaml": SHORT,
        r"past survival demo": "--folds 2 --option mcat.epochs=1 --option mil.epochs=1 --resamples 50",
        r"--spatialdata STORE": "--assay xenium",
    },
    before={r"-o SLIDE\.zarr": "rm -rf SLIDE.zarr"},
)

SLIDE = Page(
    "docs/bring-your-own-slide.md",
    prepare="""
past demo BUNDLE
mv BUNDLE/P1_he_image.ome.tif HE
for region in 1 2 3; do cp BUNDLE/keypoints_region$region.csv region$region.csv; done
cp BUNDLE/*imagealignment.csv MATRIX.csv
{ echo slide,bundle,he,registration,patient,cancer
  echo P1_a,BUNDLE,HE,registered,P1,breast
  echo P2_a,BUNDLE,HE,registered,P2,lung; } > SHEET.csv
""",
    skip={r"past view": SERVES, r"--dask": "needs a running scheduler"},
    shorten={r"lightning fit -c recipes/pretrain\.yaml": SHORT},
    instead={"CHECKPOINT": "demo", "region4.csv": "", "region5.csv": ""},  # the demo has three
    before={r"past register region1": "rm -rf registered"},
)

CLUSTER = Page(
    "docs/cluster.md",
    skip={
        r"scale/paper\.yaml": LARGE,
        r"sbatch": "needs SLURM",
        r"torchrun": "two processes that train for minutes; tests/end_to_end/test_ranks.py runs two ranks",
    },
)

PAGES = (
    README,
    SLIDE,
    CLUSTER,
    *(
        Page(f"docs/guides/{name}.md")
        for name in (
            "probe-your-encoder",
            "stain-a-slide",
            "score-a-cohort",
            "survival-from-scratch",
            "add-an-encoder",
        )
    ),
)
"""In the order of the table."""
