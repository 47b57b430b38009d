# CT foundation models, from the Imaging Data Commons to the paper's figures.
# config/ says what to run, rules/ which file comes from which, src/ does the work.
from snakemake.utils import min_version

min_version("9.27")

if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


include: "workflow/common.smk"


for stage_rules in STAGES:

    include: f"rules/{stage_rules}.smk"


include: "workflow/targets.smk"


rule all:
    """Everything that the configuration asks for."""
    default_target: True
    input:
        GOALS["all"],
