# The command line and the library in an image: built from a checkout, run as a user without rights.
#
#     docker build -t fairtat .
#     docker run --rm -v "$PWD/runs:/home/fairtat/runs" fairtat train --config configs/digits.yaml --output runs/at
#     docker run --rm --gpus all -v "$PWD/runs:/home/fairtat/runs" fairtat evaluate runs/at
#
# A GPU needs PyTorch's CUDA packages, which are the default; for a small image without them:
#     docker build --build-arg TORCH_INDEX=URL-OF-PYTORCH'S-CPU-INDEX -t fairtat .
FROM python:3.12-slim AS build
ARG TORCH_INDEX=""
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY constraints.txt .
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install -q -c constraints.txt torch ${TORCH_INDEX:+--index-url $TORCH_INDEX} \
 && /opt/venv/bin/pip install -q -c constraints.txt setuptools wheel cmake ninja pybind11
COPY . .
RUN PATH="/opt/venv/bin:$PATH" FAIRTAT_NATIVE=1 \
    pip install -q -c constraints.txt --no-build-isolation '.[train,eval,vision]'

FROM python:3.12-slim
# Inductor, behind engine="compiled", compiles at run time.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libgomp1 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home fairtat
COPY --from=build /opt/venv /opt/venv
COPY --chown=fairtat configs /home/fairtat/configs
ENV PATH="/opt/venv/bin:$PATH"
USER fairtat
WORKDIR /home/fairtat
ENTRYPOINT ["fairtat"]
CMD ["--help"]
