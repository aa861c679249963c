#!/bin/sh
# Run once, by the image, when the data folder is empty.
set -eu
psql --username postgres --dbname postgres --set ON_ERROR_STOP=1 \
  --set dataset="$DATASET_PASSWORD" --set trainer="$TRAINER_PASSWORD" <<'SQL'
CREATE ROLE dataset LOGIN PASSWORD :'dataset';
CREATE ROLE trainer LOGIN PASSWORD :'trainer';
CREATE DATABASE dataset OWNER dataset;
CREATE DATABASE trainer OWNER trainer;
REVOKE CONNECT, TEMPORARY ON DATABASE dataset, trainer FROM PUBLIC;
SQL
