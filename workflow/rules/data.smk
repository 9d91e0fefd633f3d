# snakemake --config archive=s3://bucket/mine.tar.gz: data from object storage, unpacked once, before the first run
ARCHIVE = config.get("archive")
if not isinstance(ARCHIVE, str | None):
    sys.exit(f"wtkit: config key 'archive': expected a file or an address, got {ARCHIVE!r}")
UNPACKED = [local(f"data/.{Path(ARCHIVE).name}.unpacked")] if ARCHIVE else []


if ARCHIVE:

    rule unpack:
        input:
            storage(ARCHIVE),
        output:
            touch(UNPACKED),
        log:
            local("data/.unpack.log"),
        localrule: True
        conda:
            "../../environment.yml"
        shell:
            "tar -xf {input:q} > {log:q} 2>&1"
