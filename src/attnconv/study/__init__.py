"""Studies: runs of several arms and seeds, run on this machine or on Ray, kept in one folder.

Import what you need from its file: ``attnconv.study.plan`` (Study), ``.plan_file`` (read_study, built_in), ``.folder``
(StudyFolder, read_records), ``.run`` (run_study).
"""
